"""The routes, a module a family of clients; every module has a ``router``, and the app takes all of them."""
