"""What tests of several collections share."""

import pytest

from gengap.collections.cnnzoo import contents_of_zoo


@pytest.fixture
def write_zoo():
    """Writes weights (N, 4970) and metrics (N rows) as the published three files of a data set."""

    def write(folder, weights, metrics):
        folder.mkdir(parents=True)
        for name, content in contents_of_zoo(weights, metrics).items():
            (folder / name).write_bytes(content)

    return write
