"""Looks in the source of instrumentations for what they call providers in traces; prints it as JSON: name -> packages that say it.

Nothing is imported: most of them need the provider's own package, which is not installed.
"""

import ast
import json
import sys
from importlib.metadata import distributions
from pathlib import Path

# Classes whose members are the names.
ENUMS = {
    "GenAiSystemValues",
    "GenAiProviderNameValues",
    "GenAISystem",
    "OpenInferenceLLMProviderValues",
    "OpenInferenceLLMSystemValues",
}
# Constants, attributes and arguments that hold one.
KEYS = {
    "GEN_AI_SYSTEM",
    "GEN_AI_PROVIDER_NAME",
    "LLM_SYSTEM",
    "LLM_PROVIDER",
    "ls_provider",
    "gen_ai.system",
    "gen_ai.provider.name",
    "llm.system",
    "llm.provider",
}
# Tables whose keys are names.
TABLES = {"_BUILTIN_PROVIDERS"}

said = {}


def note(node, package):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value and node.value not in KEYS:
        said.setdefault(node.value, set()).add(package)


def is_key(node):
    if isinstance(node, ast.Attribute):
        return node.attr in KEYS
    if isinstance(node, ast.Subscript):
        return is_key(node.slice)
    name = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
    return isinstance(name, str) and name in KEYS


def is_provider_of_pydantic_ai(path):
    return path.parent.name == "providers" and path.parent.parent.name == "pydantic_ai"


def look(tree, path, package):
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in ENUMS:
            for member in node.body:
                if isinstance(member, ast.Assign):
                    note(member.value, package)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values):
                if key is not None and is_key(key):
                    note(value, package)
        elif isinstance(node, ast.Assign) and any(is_key(target) for target in node.targets):
            note(node.value, package)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in TABLES:
            for key in node.value.keys:
                note(key, package)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in KEYS:
                    note(keyword.value, package)
            for key, value in zip(node.args, node.args[1:]):
                if is_key(key):
                    note(value, package)
        elif isinstance(node, ast.FunctionDef) and node.name == "name" and is_provider_of_pydantic_ai(path):
            for result in ast.walk(node):
                if isinstance(result, ast.Return):
                    note(result.value, package)


for distribution in distributions():
    package = distribution.metadata["Name"].lower().replace("_", "-")
    if package in {"pip", "setuptools"}:
        continue
    for file in distribution.files or []:
        if file.suffix == ".py":
            path = Path(str(distribution.locate_file(file)))
            look(ast.parse(path.read_text(encoding="utf-8")), path, package)
json.dump({name: sorted(packages) for name, packages in said.items()}, sys.stdout)
