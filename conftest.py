"""What pytest leaves alone: modules that import frameworks of other people, which need not be installed.

tests/integrations tests them where they are.
"""

collect_ignore = ["src/puma/integrations/langchain.py", "src/puma/integrations/llama_index.py"]
