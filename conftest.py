"""What pytest leaves alone: modules that import frameworks of other people, which need not be installed.

tests/search/integrations tests them where they are.
"""

collect_ignore = ["src/puma/search/integrations/langchain.py", "src/puma/search/integrations/llama_index.py"]
