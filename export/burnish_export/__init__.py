"""A checkpoint in, a proven ONNX bundle out.

>>> from burnish_export import ExportConfig, export
>>> export(ExportConfig(checkpoint=Path("runs/a"), out=Path("runs/a-bundle")))  # doctest: +SKIP
"""

from burnish_export.build import export
from burnish_export.config import ExportConfig

__all__ = ["ExportConfig", "export"]
