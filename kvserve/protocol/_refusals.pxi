# What errors say of a value that is not carried; part of _values.pyx.

cdef str _not_carried(object item):
    kind = type(item)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    for plain in (bool, int, str, bytes, float, list, tuple, dict, DATETIME, bytearray):
        if issubclass(kind, plain):
            return (
                f"is a {name}, which would come back as a plain {plain.__name__}: store that, or "
                "an Enum member's value"
            )
    return (
        f"is a {name}, which kvserve does not carry: it carries str, bytes, int, float, bool, "
        "None, datetime, list, tuple and dict, and arrays alone; connect(codec=...) carries more"
    )


cdef str _not_exact(object item):
    name = type(item).__name__
    return f"is a {name}, which would come back as {'UTC' if name == 'datetime' else 'bytes'}"


cdef str _shown(object key):
    """A key as it is written, if that is short."""
    if type(key) in (str, bytes):
        return repr(key[:40])
    return repr(key) if type(key) in (int, float, bool, type(None)) else f"a {type(key).__name__}"
