"""What every test may use; its being here also lets tests import `strategies`."""

from __future__ import annotations
