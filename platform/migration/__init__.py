"""Moves in from an installation of TorchServe, MMS or DJL Serving: its configuration and stores, as documents and settings."""
