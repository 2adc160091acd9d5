"""Licences compared as SPDX expressions."""

import pytest

from emid_assets.media.licences import spdx_of


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("CC-BY-4.0", "CC-BY-4.0"),
        ("cc-by-4.0", "CC-BY-4.0"),
        (" mit or apache-2.0", "Apache-2.0 OR MIT"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("as the author likes (ask)", "as the author likes (ask)"),
        ("", ""),
    ],
)
def test_equal_licences_have_one_form_and_other_texts_stay(written: str, normal: str) -> None:
    assert spdx_of(written) == normal
