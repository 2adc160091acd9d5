"""Recipes: what counts as a change, and how it is told."""

from emid_assets.health.recipes import Recipe, code_version, digest_of

NOW = Recipe(2, {"alpha": 0.3, "seed": 0}, {"images": "b", "music_clips": "c"}, "1")


def test_a_recipe_is_read_back_as_it_was_written() -> None:
    assert Recipe.of_text(NOW.to_text()) == NOW
    assert NOW.difference(Recipe.of_text(NOW.to_text()), "folder") == ""


def test_every_difference_is_named() -> None:
    stored = Recipe(1, {"alpha": 0.6, "seed": 0}, {"images": "a", "music_clips": "c"}, "0")
    assert NOW.difference(stored, "media folder") == (
        "code changed; setting changed: alpha (0.6 → 0.3); input changed: images; media folder changed"
    )


def test_an_input_that_is_new_or_gone_is_a_change_and_a_setting_that_has_no_effect_any_more_is_none() -> None:
    stored = Recipe(2, {"alpha": 0.3}, {"images": "b"}, "1")
    assert NOW.difference(stored, "") == "setting changed: seed (None → 0); input changed: music_clips"
    assert stored.difference(NOW, "") == "input changed: music_clips"


def test_a_version_without_a_recipe_is_never_current() -> None:
    for text in (None, "", "[]", '{"cod": 1}', "no JSON"):
        assert NOW.difference(Recipe.of_text(text), "") == "built by a version that kept no recipe"


def test_the_partitions_of_an_input_count_by_name_and_version_in_any_order() -> None:
    assert digest_of({"sad": "1"}) == "1"
    assert digest_of({"sad": "1", "calm": "2"}) == digest_of({"calm": "2", "sad": "1"})
    assert digest_of({"sad": "2", "calm": "1"}) != digest_of({"sad": "1", "calm": "2"})


def test_the_code_version_has_the_code_and_the_settings() -> None:
    assert code_version(3, {}) == "3"
    versions = {
        code_version(1, {"alpha": 0.6}),
        code_version(1, {"alpha": 0.3}),
        code_version(2, {"alpha": 0.6}),
    }
    assert len(versions) == 3
    assert code_version(1, {"alpha": 0.6, "seed": 1}) == code_version(1, {"seed": 1, "alpha": 0.6})
