"""A checkpoint in, a proven ONNX bundle out.

>>> from burnish_export import ExportConfig, export
>>> export(ExportConfig(checkpoint=Path("runs/a"), out=Path("runs/a-bundle")))  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from burnish_export.config import ExportConfig

if TYPE_CHECKING:
    from burnish_export.build import export

__all__ = ["ExportConfig", "export"]


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for, so that the command's help does without."""
    if name == "export":
        from burnish_export.build import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
