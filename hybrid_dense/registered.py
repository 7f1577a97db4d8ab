"""Find the class behind a name in a config."""

from mmengine import registry

REGISTRIES = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]


def find_class(name: str | None) -> type | None:
    """The class (or function) that ``type=name`` means in the current default scope, whichever registry holds it."""
    for root in REGISTRIES:
        with root.switch_scope_and_registry(None) as scoped:
            found = scoped.get(name) if name else None
        if found is not None:
            return found
    return None
