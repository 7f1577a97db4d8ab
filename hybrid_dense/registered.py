"""Find the class behind a name in a config."""

from mmengine import registry

# Of what parts of a config can be. Strategies come last: the hosts have none of their own, and mmengine warns of that.
_NO_PARTS = (registry.FUNCTIONS, registry.INFERENCERS)
REGISTRIES = [
    *(
        value
        for value in vars(registry).values()
        if isinstance(value, registry.Registry) and value not in (*_NO_PARTS, registry.STRATEGIES)
    ),
    registry.STRATEGIES,
]


def find_class(name: str | None) -> type | None:
    """The class (or function) that ``type=name`` means in the current default scope, whichever registry holds it."""
    for root in REGISTRIES:
        with root.switch_scope_and_registry(None) as scoped:
            found = scoped.get(name) if name else None
        if found is not None:
            return found
    return None
