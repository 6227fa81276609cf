"""RouterSkew: how unevenly a router spreads its tokens over the experts."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from parsim.spec.base import Spec

__all__ = ["RouterSkew"]

_Positive = Annotated[float, Field(ge=1e-3, le=1e6, allow_inf_nan=False)]


class RouterSkew(Spec):
    """Stated, or drawn with the run's seed. May be written as a number alone: `max_over_mean`.

    `max_over_mean`: tokens that the busiest of ep ranks gets over the mean; the others share the rest evenly.
    `zipf` s: the i-th most popular expert is chosen with weight i^-s. `dirichlet` a: weights drawn with that
    concentration, the smaller the more uneven. A token's k experts are drawn by weight, none of them twice.
    """

    max_over_mean: Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)] | None = None
    zipf: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    dirichlet: _Positive | None = None

    @property
    def source(self) -> Literal["stated", "zipf", "dirichlet"]:
        """Where the loads come from."""
        return "stated" if self.max_over_mean is not None else "zipf" if self.zipf is not None else "dirichlet"

    @model_validator(mode="before")
    @classmethod
    def _number(cls, data: Any) -> Any:
        return {"max_over_mean": data} if isinstance(data, int | float) and not isinstance(data, bool) else data

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.max_over_mean, self.zipf, self.dirichlet)) != 1:
            raise ValueError("state one of max_over_mean, zipf, dirichlet")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "number", "minimum": 1}, handler(core)]}
