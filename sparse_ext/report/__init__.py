"""What a comparison found, as plain values, and the pages that are made of it. Imports nothing of ours."""

from .record import Record

__all__ = ["Record"]
