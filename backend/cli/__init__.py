"""The command line, `skylight`.

Commands import PyTorch, Flask and all that needs them inside their functions: that takes seconds, which `skylight
--help` need not wait for.
"""
