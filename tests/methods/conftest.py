import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(same_start):
    """The models are tiny: threads would only wait for each other."""
    torch.set_num_threads(1)
