"""The vector files twice: as they stand in docs/vectors, and made anew by the command."""

import pytest

from tests.docs.reading import ROOT
from tests.vectors import make

STORED = ROOT / "docs/vectors"


@pytest.fixture(scope="session")
def made_anew(tmp_path_factory):
    """Run the command once; return the folder."""
    folder = tmp_path_factory.mktemp("vectors")
    assert make.main([str(folder)]) == 0
    return folder


@pytest.fixture(params=["stored", "made anew"])
def folder(request):
    """Return the folder of stored files, then that of new ones."""
    return STORED if request.param == "stored" else request.getfixturevalue("made_anew")
