"""A bundle in, figures out: how fast each variant answers on this machine, measured in turns in one run.

>>> from burnish_bench import BenchConfig, bench
>>> bench("bundle/", BenchConfig(data="reviews.jsonl"))["variants"]["int8"]["throughput"]  # doctest: +SKIP
{'texts_per_second': 1482.0, 'low': 1471.2, 'high': 1490.6, 'rounds': 10}
"""

from burnish_bench.config import BenchConfig
from burnish_bench.report import bench

__all__ = ["BenchConfig", "bench"]
