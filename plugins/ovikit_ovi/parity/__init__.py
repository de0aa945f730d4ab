"""Replays of what the released code recorded: ``ovikit parity FILE...``."""
