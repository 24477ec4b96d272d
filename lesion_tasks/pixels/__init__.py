"""Manifest -> shards of decoded pixels: each picture is decoded once for each input size."""
