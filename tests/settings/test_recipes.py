"""The recipes that ship resolve, and enable only stages that have an effect."""

from __future__ import annotations

import pytest

from hire_model.settings import list_recipes, resolve


@pytest.mark.parametrize("recipe", list_recipes())
def test_a_recipe_enables_only_stages_that_have_an_effect(recipe: str) -> None:
    assert resolve(recipe, environ={}).settings.model.inactive_stages == {}
