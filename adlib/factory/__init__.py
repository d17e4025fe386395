"""The synthetic factory: pictures of products that never existed, with exact masks, and nothing to download."""

from adlib.factory.synthetic import PRODUCTS, VERSION, SyntheticFactory

__all__ = ["PRODUCTS", "VERSION", "SyntheticFactory"]
