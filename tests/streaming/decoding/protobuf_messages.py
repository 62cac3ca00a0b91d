"""A Protobuf class for the tests, made from its descriptor instead of by protoc."""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

FILE = descriptor_pb2.FileDescriptorProto(
    name="tests/order.proto",
    package="tests",
    syntax="proto3",
    dependency=[timestamp_pb2.DESCRIPTOR.name],
)
_F = descriptor_pb2.FieldDescriptorProto
_other = FILE.message_type.add(name="Other")
_order = FILE.message_type.add(name="Order")
_line = _order.nested_type.add(name="Line")
_line.field.add(name="sku", number=1, type=_F.TYPE_STRING, label=_F.LABEL_OPTIONAL)
_kind = FILE.enum_type.add(name="Kind")
_kind.value.add(name="UNSET", number=0)
_kind.value.add(name="SALE", number=1)
_order.oneof_decl.add(name="_total")
for _name, _number, _type, _more in (
    ("k", 1, _F.TYPE_INT64, {}),
    ("at", 2, _F.TYPE_MESSAGE, {"type_name": ".google.protobuf.Timestamp"}),
    ("total", 3, _F.TYPE_DOUBLE, {"proto3_optional": True, "oneof_index": 0}),
    ("note", 4, _F.TYPE_STRING, {}),
    ("raw", 5, _F.TYPE_BYTES, {}),
    ("kind", 6, _F.TYPE_ENUM, {"type_name": ".tests.Kind"}),
    ("line", 7, _F.TYPE_MESSAGE, {"type_name": ".tests.Order.Line"}),
    ("tags", 8, _F.TYPE_STRING, {"label": _F.LABEL_REPEATED}),
    ("big", 9, _F.TYPE_UINT64, {}),
):
    _order.field.add(
        name=_name, number=_number, type=_type, **{"label": _F.LABEL_OPTIONAL, **_more}
    )

_pool = descriptor_pool.Default()
_pool.AddSerializedFile(FILE.SerializeToString())
Order = message_factory.GetMessageClass(_pool.FindMessageTypeByName("tests.Order"))
