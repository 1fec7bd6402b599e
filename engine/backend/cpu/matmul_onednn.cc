#include "engine/backend/cpu/matmul_onednn.h"

#include <omp.h>

#include <algorithm>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/backend/cpu/channels.h"
#include "engine/backend/host/host_buffer.h"
#include "engine/base/check.h"

namespace kascade::cpu {
namespace {

using dnnl::memory;

// Channels and rows of one slice of a product, which takes about 0.1 ms.
constexpr int64_t kSliceChannels = 256;
constexpr int64_t kSliceRows = 96;
// Number of primitives to keep. A server sees few shapes of matrix but any number of rows. When the
// limit is reached all primitives are dropped, which costs one step a few milliseconds.
constexpr size_t kMostPrimitives = 1024;

constexpr int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

memory::desc rows_of(int64_t rows, int64_t cols, int64_t stride) {
  return {{rows, cols}, memory::data_type::f32, memory::dims{stride, 1}};
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const memory::desc& x,
                                      const memory::desc& w, const memory::desc& out) {
  // Any thread may run a primitive, so each thread provides the scratchpad memory.
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
  return {engine, x, w, out, attributes};
#else
  return {dnnl::matmul::desc(x, w, out), attributes, engine};
#endif
}

class SlicedMatrix final : public Matrix {
 public:
  struct Slice {
    HostBuffer storage;  // on huge pages if the system has them
    memory weights;      // [in, channels], in `storage`
    int64_t channels() const { return weights.get_desc().dims()[1]; }
  };
  SlicedMatrix(std::vector<Slice> slices, int64_t out_features, int64_t in_features, int64_t bytes)
      : Matrix(out_features, in_features, bytes), slices_(std::move(slices)) {}
  const std::vector<Slice>& slices() const { return slices_; }

 private:
  std::vector<Slice> slices_;
};

}  // namespace

bool rows_are_independent() {
  const auto wanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

struct MatmulOneDnn::Impl {
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t>;  // in, channels, rows, stride of x
  struct Prepared {
    memory::desc x;
    memory::desc out;
    memory::desc scratchpad;
    dnnl::matmul matmul;
  };
  // The oneDNN stream and the buffers of one thread.
  struct Worker {
    explicit Worker(const dnnl::engine& engine) : stream(engine) {}
    dnnl::stream stream;
    HostBuffer out{DType::kF32, kSliceRows, kSliceChannels};  // contiguous, see run_slice()
    HostBuffer scratchpad{};
  };

  explicit Impl(ThreadPool& threads) : pool(threads) {
    for (int32_t i = 0; i < pool.threads(); ++i) workers.emplace_back(engine);
  }

  SlicedMatrix::Slice pack(const HostBuffer& plain, int64_t channels, int64_t in) const;
  // Returns the primitive that multiplies x by a slice. Once prepared, it is only looked up.
  const Prepared& prepare(const SlicedMatrix::Slice& slice, Tensor x);
  void run_slice(Worker& worker, const Prepared& product, Tensor x,
                 const SlicedMatrix::Slice& slice, Tensor out, Into into) const;

  ThreadPool& pool;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::vector<Worker> workers{};
  std::map<Shape, Prepared> prepared{};
};

MatmulOneDnn::MatmulOneDnn(ThreadPool& pool) : impl_(new Impl(pool)) {}
MatmulOneDnn::~MatmulOneDnn() = default;

// `plain` is [channels, in].
SlicedMatrix::Slice MatmulOneDnn::Impl::pack(const HostBuffer& plain, int64_t channels,
                                             int64_t in) const {
  const memory::desc any({in, channels}, memory::data_type::f32, memory::format_tag::any);
  // oneDNN chooses the layout for products with many rows; it is correct for any number.
  const auto described =
      describe(engine, rows_of(kSliceRows, in, in), any, rows_of(kSliceRows, channels, channels));
  memory from({{in, channels}, memory::data_type::f32, memory::dims{1, in}}, engine,
              plain.view().data);
  const memory::desc layout = described.weights_desc();
  HostBuffer storage(DType::kF32, 1, divided_up(static_cast<int64_t>(layout.get_size()), 4));
  KASCADE_CHECK(storage.view().data != nullptr);
  memory packed(layout, engine, storage.view().data);
  dnnl::stream stream(engine);
  dnnl::reorder(from, packed).execute(stream, from, packed);
  stream.wait();
  return {std::move(storage), std::move(packed)};
}

std::unique_ptr<Matrix> MatmulOneDnn::pack(std::span<const Tensor> parts) {
  omp_set_num_threads(1);  // a setting of the calling thread, which oneDNN reads
  const int64_t out_features = rows_of_all(parts), in_features = parts.front().cols;
  const HostBuffer plain(DType::kF32, kSliceChannels, in_features);
  KASCADE_CHECK(plain.view().data != nullptr);
  std::vector<SlicedMatrix::Slice> slices;
  int64_t bytes = 0;
  for (int64_t first = 0; first < out_features; first += kSliceChannels) {
    const int64_t channels = std::min(kSliceChannels, out_features - first);
    for (int64_t i = 0; i < channels; ++i) read_channel(parts, first + i, plain.view().f32(i));
    slices.push_back(impl_->pack(plain, channels, in_features));
    bytes += slices.back().storage.bytes();
  }
  return std::make_unique<SlicedMatrix>(std::move(slices), out_features, in_features, bytes);
}

const MatmulOneDnn::Impl::Prepared& MatmulOneDnn::Impl::prepare(const SlicedMatrix::Slice& slice,
                                                                Tensor x) {
  const int64_t channels = slice.channels();
  const Shape shape{x.cols, channels, x.rows, x.stride};
  const auto found = prepared.find(shape);
  if (found != prepared.end()) return found->second;
  const memory::desc from = rows_of(x.rows, x.cols, x.stride);
  const memory::desc to = rows_of(x.rows, channels, channels);
  const auto described = describe(engine, from, slice.weights.get_desc(), to);
  const Prepared made{from, to, described.scratchpad_desc(), dnnl::matmul(described)};
  return prepared.emplace(shape, made).first->second;
}

// Writes to the worker's contiguous buffer first: for a result with gaps between its rows oneDNN
// 2.6 has only plain loops, which are hundreds of times slower.
void MatmulOneDnn::Impl::run_slice(Worker& worker, const Prepared& product, Tensor x,
                                   const SlicedMatrix::Slice& slice, Tensor out, Into into) const {
  const auto scratch_bytes = static_cast<int64_t>(product.scratchpad.get_size());
  if (worker.scratchpad.bytes() < scratch_bytes) {
    worker.scratchpad = HostBuffer(DType::kF32, 1, divided_up(scratch_bytes, 4));
  }
  float* result = worker.out.view().f32(0);
  product.matmul.execute(
      worker.stream,
      {{DNNL_ARG_SRC, memory(product.x, engine, x.data)},
       {DNNL_ARG_WEIGHTS, slice.weights},
       {DNNL_ARG_DST, memory(product.out, engine, result)},
       {DNNL_ARG_SCRATCHPAD, memory(product.scratchpad, engine, worker.scratchpad.view().data)}});
  for (int64_t row = 0; row < out.rows; ++row, result += out.cols) {
    float* to = out.f32(row);
    for (int64_t i = 0; i < out.cols; ++i)
      to[i] = into == Into::kAdd ? to[i] + result[i] : result[i];
  }
}

void MatmulOneDnn::run(Tensor x, const Matrix& w, Tensor out, Into into) {
  if (x.rows == 0) return;
  // The stride of a single row has no meaning and must not lead to another primitive.
  if (x.rows == 1) x.stride = x.cols;
  const auto& slices = static_cast<const SlicedMatrix&>(w).slices();
  const int64_t row_runs = divided_up(x.rows, kSliceRows);
  omp_set_num_threads(1);  // a setting of the calling thread, which oneDNN reads
  if (impl_->prepared.size() + 4 > kMostPrimitives) impl_->prepared.clear();
  // All slices but the last have equal size, in rows and in channels.
  const auto rows_at = [&](Tensor matrix, int64_t run) {
    const int64_t first = run * kSliceRows;
    return matrix.slice_rows(first, std::min(kSliceRows, matrix.rows - first));
  };
  for (const int64_t run : {int64_t{0}, row_runs - 1}) {
    for (const size_t slice : {size_t{0}, slices.size() - 1}) {
      impl_->prepare(slices[slice], rows_at(x, run));
    }
  }
  const auto tasks = static_cast<int64_t>(slices.size()) * row_runs;
  impl_->pool.run(tasks, [&](int64_t task, int32_t worker) {
    omp_set_num_threads(1);
    const auto& slice = slices[static_cast<size_t>(task / row_runs)];
    const Tensor rows = rows_at(x, task % row_runs);
    const Tensor to = rows_at(out, task % row_runs)
                          .slice_cols(task / row_runs * kSliceChannels, slice.channels());
    impl_->run_slice(impl_->workers[static_cast<size_t>(worker)], impl_->prepare(slice, rows), rows,
                     slice, to, into);
  });
}

}  // namespace kascade::cpu
