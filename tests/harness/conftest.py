"""What tests of decoding and counting share."""

import pytest

from ovss.harness.native import door


@pytest.fixture(params=["torch", "compiled"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test with both programs that decode and count on a CPU.

    Without a C++ compiler the package is whole, and there is no second program to test.
    """
    monkeypatch.delenv(door.KERNELS, raising=False)
    if request.param == "torch":
        monkeypatch.setenv(door.KERNELS, "0")
    elif door.kernels() is None:
        pytest.skip("`make setup` builds the kernels")
