"""Progress reports: in the log, and as observations while the run goes on."""

import dagster as dg

from emid_assets.orchestration.progress import report_progress


def test_progress_is_told_at_the_end_and_not_at_every_item() -> None:
    clock = iter([0.0, 1.0, 2.0, 7.0, 8.0])

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["sad"]))
    def long_work(context: dg.AssetExecutionContext) -> None:
        on_progress = report_progress(context, "encoded", lambda: next(clock))
        for done in (1, 2, 3, 4):
            on_progress(done, 4)

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([long_work], partition_key="sad", instance=instance).success
        records = instance.fetch_observations(dg.AssetKey("long_work"), limit=10).records
    seen = [
        {key: value.value for key, value in record.asset_observation.metadata.items()}
        for record in reversed(records)
    ]
    assert [(entry["done"], entry["total"]) for entry in seen] == [(3, 4), (4, 4)]
    assert seen[0]["seconds_left"] == 7 / 3
    assert {record.partition_key for record in records} == {"sad"}
