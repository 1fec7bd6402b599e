#include "engine/backend/cpu/matmul_onednn.h"

#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <utility>

#include "engine/check.h"

namespace kascade::cpu {
namespace {

using dnnl::memory;

// Weights are packed for this many rows; the layout is the same for others, or run() would still be
// right with it.
constexpr int64_t kTypicalRows = 128;
// Primitives kept. A server meets few shapes of matrix but any number of rows; beyond the bound
// all are dropped, which costs a step some milliseconds.
constexpr size_t kMostPrimitives = 1024;

memory::data_type type_of(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

memory::desc rows_of(DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  return {{rows, cols}, type_of(dtype), memory::dims{stride, 1}};
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& x,
                                      const memory::desc& w, const memory::desc& out, Into into) {
  dnnl::primitive_attr attributes;
  if (into == Into::kAdd) {
    dnnl::post_ops sum;
    sum.append_sum();
    attributes.set_post_ops(sum);
  }
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, w, out, attributes};
#else
  return {dnnl::matmul::desc(x, w, out), attributes, engine};
#endif
}

// What oneDNN may use here, which its environment variables can limit.
bool has_isa(dnnl::cpu_isa isa) {
  const auto wanted = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

class PackedMatrix final : public Matrix {
 public:
  PackedMatrix(Buffer storage, memory weights, int64_t out_features, int64_t in_features)
      : Matrix(out_features, in_features, static_cast<int64_t>(weights.get_desc().get_size())),
        storage_(std::move(storage)),
        weights_(std::move(weights)) {}
  const memory& weights() const { return weights_; }

 private:
  Buffer storage_;
  memory weights_;  // in storage_
};

}  // namespace

bool bf16_matmul_supported() {
  if (!has_isa(dnnl::cpu_isa::avx512_core_bf16)) return false;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    const memory::desc any({64, 64}, memory::data_type::bf16, memory::format_tag::any);
    describe(engine, rows_of(DType::kBF16, 16, 64, 64), any, rows_of(DType::kF32, 16, 64, 64),
             Into::kOverwrite);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

bool rows_are_independent() { return has_isa(dnnl::cpu_isa::avx512_core); }

struct MatmulOneDnn::Impl {
  // in, out, rows, strides of x and out, Into
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, Into>;
  struct Prepared {
    memory::desc x;
    memory::desc out;
    dnnl::matmul matmul;
  };

  DType weights;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<Shape, Prepared> prepared{};
  Buffer gapless{};  // see run_strided()

  const Prepared& prepare(Tensor x, const PackedMatrix& w, Tensor out, Into into) {
    const Shape shape{x.cols, out.cols, x.rows, x.stride, out.stride, into};
    const auto found = prepared.find(shape);
    if (found != prepared.end()) return found->second;
    if (prepared.size() >= kMostPrimitives) prepared.clear();
    const memory::desc from = rows_of(x.dtype, x.rows, x.cols, x.stride);
    const memory::desc to = rows_of(out.dtype, out.rows, out.cols, out.stride);
    const auto described = describe(engine, from, w.weights().get_desc(), to, into);
    return prepared.emplace(shape, Prepared{from, to, dnnl::matmul(described)}).first->second;
  }
};

MatmulOneDnn::MatmulOneDnn(DType weights) : impl_(new Impl{.weights = weights}) {}
MatmulOneDnn::~MatmulOneDnn() = default;

std::unique_ptr<Matrix> MatmulOneDnn::pack(Tensor plain) {
  const int64_t out = plain.rows, in = plain.cols;
  const memory::desc any({in, out}, type_of(impl_->weights), memory::format_tag::any);
  const auto described = describe(impl_->engine, rows_of(impl_->weights, kTypicalRows, in, in), any,
                                  rows_of(DType::kF32, kTypicalRows, out, out), Into::kOverwrite);
  memory from({{in, out}, type_of(impl_->weights), memory::dims{1, plain.stride}}, impl_->engine,
              plain.data);
  const memory::desc layout = described.weights_desc();
  // In memory of ours, which is on huge pages where there are any.
  Buffer storage(DType::kF32, 1, (static_cast<int64_t>(layout.get_size()) + 3) / 4);
  KASCADE_CHECK(storage.view().data != nullptr);
  memory packed(layout, impl_->engine, storage.view().data);
  dnnl::reorder(from, packed).execute(impl_->stream, from, packed);
  impl_->stream.wait();
  return std::make_unique<PackedMatrix>(std::move(storage), std::move(packed), out, in);
}

void MatmulOneDnn::run(Tensor x, const Matrix& w, Tensor out, Into into) {
  if (x.rows == 0) return;
  const auto& packed = static_cast<const PackedMatrix&>(w);
  // A single row has no stride; naming one would only prepare the same product again.
  if (x.rows == 1) {
    x.stride = x.cols;
    out.stride = out.cols;
  }
  if (out.stride != out.cols) return run_strided(x, w, out, into);
  const Impl::Prepared& prepared = impl_->prepare(x, packed, out, into);
  const memory from(prepared.x, impl_->engine, x.data), to(prepared.out, impl_->engine, out.data);
  prepared.matmul.execute(
      impl_->stream,
      {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, packed.weights()}, {DNNL_ARG_DST, to}});
  impl_->stream.wait();
}

// oneDNN 2.6 has only its plain loops for a result with gaps between the rows, hundreds of times
// slower: the logits of several sequences, written tile by tile, are one.
void MatmulOneDnn::run_strided(Tensor x, const Matrix& w, Tensor out, Into into) {
  if (impl_->gapless.bytes() < out.rows * out.cols * size_of(DType::kF32)) {
    impl_->gapless = Buffer(DType::kF32, out.rows, out.cols);
  }
  const Tensor gapless{impl_->gapless.view().data, DType::kF32, out.rows, out.cols, out.cols};
  run(x, w, gapless, Into::kOverwrite);
  for (int64_t row = 0; row < out.rows; ++row) {
    const float* from = gapless.f32(row);
    float* to = out.f32(row);
    for (int64_t i = 0; i < out.cols; ++i) to[i] = into == Into::kAdd ? to[i] + from[i] : from[i];
  }
}

}  // namespace kascade::cpu
