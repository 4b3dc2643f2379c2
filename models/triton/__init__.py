"""Python-backend models as they are packaged; `optimize` measures the very files it ships."""
