"""Bundled models by their shape: a file that states every width may go by the name of a model that has them."""

from collections.abc import Mapping
from typing import Any

from parsim.spec import ModelSpec, catalogue, load_model

__all__ = ["bundled_model"]


def bundled_model(shape: Mapping[str, Any]) -> ModelSpec | None:
    """The bundled model with these fields, whatever its longest sequence if its positions are rotary. A vocabulary of
    None, or none, stands for any. None if no model has this shape.
    """
    for name in catalogue.names("models"):
        model = load_model(name)
        values = {**shape, "name": name, "vocab": shape.get("vocab") or model.vocab, "evidence": model.evidence}
        if model.positions == "rope":
            values["max_positions"] = model.max_positions
        try:
            same = ModelSpec.model_validate(values)
        except ValueError:
            return None
        if same == model:
            return model
    return None
