"""Constraints over token ids: from a schema or grammar and the Harmony structure to masks for the sampler."""

from mosso.grammar.constrainer import HarmonyConstrainer

__all__ = ["HarmonyConstrainer"]
