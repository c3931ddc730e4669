"""A vector of sixteen float32 for loops that numba compiles: one value a channel.

LLVM does not keep the sums of a convolution in registers by itself, because it cannot know that
arrays do not overlap. A value of this type is a register (two of AVX2, one of AVX-512). Nothing
here checks an index. Numba's cache on disk does not see a change of this file: delete it then.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

CHANNELS = 16
FLOAT = ir.FloatType()
VECTOR = ir.VectorType(FLOAT, CHANNELS)
FLOAT_BYTES = 4


class VectorType(types.Type):
    """The type that numba sees."""


vector = VectorType(name="vector")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, VECTOR)


def _pointer(context, builder, kind, array, index):
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index], source_etype=FLOAT)


@intrinsic
def load(typing_context, array, index):
    """The vector that begins at array[index]; `array` is float32 (N,)."""

    def generate(context, builder, signature, arguments):
        place = _pointer(context, builder, signature.args[0], *arguments)
        place = builder.bitcast(place, VECTOR.as_pointer())
        return builder.load(place, align=FLOAT_BYTES, typ=VECTOR)

    return vector(array, types.intp), generate


@intrinsic
def store(typing_context, array, index, value):
    """Write a vector where array[index] begins."""

    def generate(context, builder, signature, arguments):
        place = _pointer(context, builder, signature.args[0], *arguments[:2])
        place = builder.bitcast(place, VECTOR.as_pointer())
        builder.store(arguments[2], place, align=FLOAT_BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def add_product(typing_context, total, array, index, factor):
    """total + array[index] * factor, where `total` and `factor` are vectors."""

    def generate(context, builder, signature, arguments):
        total, array, index, factor = arguments
        place = _pointer(context, builder, signature.args[1], array, index)
        number = builder.load(place, align=FLOAT_BYTES, typ=FLOAT)
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), CHANNELS), [0] * CHANNELS)
        repeated = builder.shuffle_vector(first, undefined, everywhere)
        product = builder.fmul(repeated, factor, flags=("contract",))
        return builder.fadd(total, product, flags=("contract",))

    return vector(vector, array, types.intp, vector), generate
