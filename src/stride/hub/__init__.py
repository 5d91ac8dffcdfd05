"""Models on Hugging Face: what a repository holds, verified downloads, and where pulled models lie.

Free of slow imports until something is listed or downloaded, so that `resolve` costs nothing.
"""

from stride.hub.local import resolve
from stride.hub.variants import Variant, choose, variants

__all__ = ["Variant", "choose", "resolve", "variants"]
