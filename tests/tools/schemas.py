"""Makes the JSON Schemas that kubeconform reads: FOLDER, the package's folder of schemas, versions of Kubernetes with commas, FILE..."""

import json
import pathlib
import sys

import yaml


def strict(schema):
    """Refuses unknown fields, as the API server does where it is asked for strict validation."""
    if isinstance(schema, list):
        for part in schema:
            strict(part)
    if not isinstance(schema, dict):
        return
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    for part in schema.values():
        strict(part)


def kubernetes(folder, package, version):
    """Copies the schemas of one version. Those of the package name each other by a path of its own tool."""
    target = folder / f"v{version}-strict"
    target.mkdir(parents=True, exist_ok=True)
    for file in (package / f"v{version}-local-strict").glob("*.json"):
        schema = json.loads(file.read_text(encoding="utf-8").replace('"/api/_definitions.json', '"_definitions.json'))
        # With it, what it names would be looked for on the network.
        schema.pop("$id", None)
        (target / file.name).write_text(json.dumps(schema), encoding="utf-8")


def custom(folder, file):
    """Writes the schema of each version of a definition of a custom resource."""
    for definition in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if not definition:
            continue
        spec = definition["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            strict(schema)
            schema["properties"]["metadata"] = {"type": "object"}
            # The name that kubeconform asks for: the kind, the first label of the group, the version.
            name = f"{spec['names']['kind'].lower()}-{spec['group'].split('.')[0]}-{version['name']}.json"
            (folder / name).write_text(json.dumps(schema), encoding="utf-8")


def main(folder, package, versions, files):
    for version in versions.split(","):
        kubernetes(folder, package, version)
    for file in files:
        custom(folder, pathlib.Path(file))


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
