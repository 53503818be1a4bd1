"""What is known of methods without importing them."""

import pytest

from ovss.methods import find_method, list_methods
from ovss.methods.names import built_in_info


@pytest.mark.parametrize("name", list_methods(plugins=False))
def test_what_the_source_says_is_what_the_class_says(name: str) -> None:
    assert built_in_info(name) == find_method(name).info


def test_methods_of_others_are_not_looked_for() -> None:
    assert built_in_info("package.module:Class") is None
