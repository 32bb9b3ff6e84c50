"""The fixtures that give these tests a real PostgreSQL are in tests/conftest.py, as other folders use them too."""
