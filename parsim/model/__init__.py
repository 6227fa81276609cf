"""What a model means: its layers as work over named dims, its weights as data, its FLOP."""

__all__: list[str] = []
