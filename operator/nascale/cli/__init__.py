"""The `nascale` command."""
