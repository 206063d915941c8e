"""The theme's decorators, passed on so that apps need not know the theme."""

from unfold.decorators import action, display

__all__ = ["action", "display"]
