"""Pytest does not collect LangChain's standard tests by itself: they need plugins of theirs, in a process of its own
(see test_langchain.py)."""

collect_ignore = ["standard_langchain.py"]
