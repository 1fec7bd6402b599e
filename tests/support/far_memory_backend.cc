#include "tests/support/far_memory_backend.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/backend/host/host_backend.h"
#include "engine/base/check.h"

namespace kascade::testing {
namespace {

// One range of pages, unreadable unless opened. Buffers may be freed on any thread.
class FarMemory {
 public:
  FarMemory() {
    void* memory =
        mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    KASCADE_CHECK(memory != MAP_FAILED);
    base_ = static_cast<std::byte*>(memory);
    free_[0] = kBytes;
  }
  ~FarMemory() { munmap(base_, kBytes); }
  FarMemory(const FarMemory&) = delete;
  FarMemory& operator=(const FarMemory&) = delete;

  void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const auto [offset, size] = *it;
      if (size < rounded) continue;
      free_.erase(it);
      if (size > rounded) free_[offset + rounded] = size - rounded;
      used_[offset] = rounded;
      return base_ + offset;
    }
    return nullptr;
  }
  void release(void* memory) {
    const std::lock_guard lock(mutex_);
    const auto used = used_.find(static_cast<size_t>(static_cast<std::byte*>(memory) - base_));
    KASCADE_CHECK(used != used_.end());
    auto freed = free_.emplace(used->first, used->second).first;
    used_.erase(used);
    const auto next = std::next(freed);
    if (next != free_.end() && freed->first + freed->second == next->first) {
      freed->second += next->second;
      free_.erase(next);
    }
  }
  void open() { protect(PROT_READ | PROT_WRITE); }
  void close() { protect(PROT_NONE); }

 private:
  static constexpr size_t kBytes = size_t{1} << 30;  // of addresses; pages cost when written
  static constexpr size_t kAlignment = 4096;

  void protect(int protection) { KASCADE_CHECK(mprotect(base_, kBytes, protection) == 0); }

  std::byte* base_ = nullptr;
  std::mutex mutex_;
  std::map<size_t, size_t> free_, used_;  // bytes by offset
};

// Opens the memory for one operation.
class Access {
 public:
  explicit Access(FarMemory& memory) : memory_(memory) { memory_.open(); }
  ~Access() { memory_.close(); }
  Access(const Access&) = delete;
  Access& operator=(const Access&) = delete;

 private:
  FarMemory& memory_;
};

// Has a copy of the batch, as a device would.
class FarStepInput final : public StepInput {
 public:
  explicit FarStepInput(const Batch& batch) : batch_(batch), inner_(batch_) {}
  const StepInput& inner() const { return inner_; }

 private:
  Batch batch_;
  HostStepInput inner_;
};

class FarSelection final : public Selection {
 public:
  int32_t tiles() const override { return inner.tiles(); }
  int32_t kv_heads() const override { return inner.kv_heads(); }
  std::vector<int32_t> read(int32_t tile, int32_t kv_head) const override {
    return inner.read(tile, kv_head);
  }
  int32_t count(int32_t tile, int32_t kv_head) const override { return inner.count(tile, kv_head); }

  HostSelection inner;
};

class FarEmbedding final : public EmbeddingTable {
 public:
  explicit FarEmbedding(Buffer table) : table_(std::move(table)), inner(table_.view()) {}

 private:
  Buffer table_;

 public:
  HostEmbedding inner;
};

class FarLogitStatistics final : public LogitStatistics {
 public:
  FarLogitStatistics(std::unique_ptr<LogitStatistics> inner, std::shared_ptr<FarMemory> memory)
      : inner_(std::move(inner)), memory_(std::move(memory)) {}
  void start(std::span<const Token> targets, int32_t candidates) override {
    inner_->start(targets, candidates);
  }
  void add(Tensor logits, Token first_token) override {
    const Access access(*memory_);
    inner_->add(logits, first_token);
  }
  void add_difference(Tensor logits, Tensor other) override {
    const Access access(*memory_);
    inner_->add_difference(logits, other);
  }
  void add_ranks(Tensor logits, Token first_token) override {
    const Access access(*memory_);
    inner_->add_ranks(logits, first_token);
  }
  std::vector<RowStatistics> read() override { return inner_->read(); }

 private:
  std::unique_ptr<LogitStatistics> inner_;
  std::shared_ptr<FarMemory> memory_;
};

class FarMemoryBackend final : public Backend {
 public:
  explicit FarMemoryBackend(std::optional<DType> cache)
      : inner_(make_reference_backend(WeightFormat::kF32, cache)) {}

  BackendInfo info() const override { return {.name = "far_memory"}; }
  Precision precision() const override { return inner_->precision(); }

  Buffer allocate(DType dtype, int64_t rows, int64_t cols) override {
    const int64_t stride = row_elements(dtype, cols);
    void* data = memory_->allocate(static_cast<size_t>(rows * stride * size_of(dtype)));
    const Tensor view{data, dtype, rows, cols, stride};
    return {view, std::shared_ptr<void>(data, [memory = memory_](void* freed) {
              if (freed != nullptr) memory->release(freed);
            })};
  }
  void upload(std::span<const std::byte> host, Tensor to) override {
    const Access access(*memory_);
    inner_->upload(host, to);
  }
  void download(Tensor from, std::span<std::byte> host) override {
    const Access access(*memory_);
    inner_->download(from, host);
  }
  void copy(Tensor from, Tensor to) override {
    const Access access(*memory_);
    inner_->copy(from, to);
  }
  void gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) override {
    const Access access(*memory_);
    inner_->gather_rows(from, rows, to);
  }

  std::unique_ptr<Matrix> pack(std::span<const Tensor> parts, MatrixUse use) override {
    return inner_->pack(parts, use);
  }
  std::unique_ptr<EmbeddingTable> adopt_embedding(Tensor table) override {
    Buffer far = allocate(table.dtype, table.rows, table.cols);
    const auto* host = static_cast<const std::byte*>(table.data);
    upload({host, static_cast<size_t>(table.rows * table.stride * size_of(table.dtype))},
           far.view());
    return std::make_unique<FarEmbedding>(std::move(far));
  }
  std::unique_ptr<StepInput> prepare(const Batch& batch) override {
    return std::make_unique<FarStepInput>(batch);
  }
  std::unique_ptr<Selection> make_selection() override { return std::make_unique<FarSelection>(); }
  std::unique_ptr<LogitStatistics> make_logit_statistics() override {
    return std::make_unique<FarLogitStatistics>(inner_->make_logit_statistics(), memory_);
  }

  void embed(const EmbeddingTable& table, const StepInput& step, Tensor out) override {
    const Access access(*memory_);
    inner_->embed(static_cast<const FarEmbedding&>(table).inner, inner_of(step), out);
  }
  void rotary_angles(const StepInput& step, std::span<const double> frequencies,
                     Tensor out) override {
    const Access access(*memory_);
    inner_->rotary_angles(inner_of(step), frequencies, out);
  }
  void matmul(Tensor x, const Matrix& w, Tensor out, Into into) override {
    const Access access(*memory_);
    inner_->matmul(x, w, out, into);
  }
  void rms_norm(Tensor x, Tensor weight, float eps, Tensor out) override {
    const Access access(*memory_);
    inner_->rms_norm(x, weight, eps, out);
  }
  void rms_norm_heads(Tensor x, Tensor weight, float eps) override {
    const Access access(*memory_);
    inner_->rms_norm_heads(x, weight, eps);
  }
  void add_bias(Tensor x, Tensor bias) override {
    const Access access(*memory_);
    inner_->add_bias(x, bias);
  }
  void scale(Tensor x, float factor) override {
    const Access access(*memory_);
    inner_->scale(x, factor);
  }
  void rope(Tensor x, int32_t heads, Tensor angles) override {
    const Access access(*memory_);
    inner_->rope(x, heads, angles);
  }
  void write_kv(Tensor keys, Tensor values, const StepInput& step, LayerCache cache) override {
    const Access access(*memory_);
    inner_->write_kv(keys, values, inner_of(step), cache);
  }
  void silu_mul(Tensor gate_up, Tensor out) override {
    const Access access(*memory_);
    inner_->silu_mul(gate_up, out);
  }
  void attend(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
              const KeySet& keys, Tensor out) override {
    const Access access(*memory_);
    KeySet inner = keys;
    if (keys.selection != nullptr) inner.selection = &inner_of(*keys.selection);
    inner_->attend(q, cache, inner_of(step), tiles, inner, out);
  }
  void pool_scores(Tensor q, LayerCache cache, const StepInput& step, int32_t tile, Pooling pooling,
                   Tensor scores) override {
    const Access access(*memory_);
    inner_->pool_scores(q, cache, inner_of(step), tile, pooling, scores);
  }
  void select_keys(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                   const SelectOptions& options, Selection& selection) override {
    const Access access(*memory_);
    inner_->select_keys(q, cache, inner_of(step), tiles, options, inner_of(selection));
  }
  void select_pages(Tensor q, LayerCache cache, const StepInput& step, TileRange tiles,
                    int32_t page_size, Selection& selection) override {
    const Access access(*memory_);
    inner_->select_pages(q, cache, inner_of(step), tiles, page_size, inner_of(selection));
  }
  void select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                   Selection& selection) override {
    inner_->select_none(cache, inner_of(step), tiles, inner_of(selection));
  }

 private:
  static const StepInput& inner_of(const StepInput& step) {
    return static_cast<const FarStepInput&>(step).inner();
  }
  static Selection& inner_of(Selection& selection) {
    return static_cast<FarSelection&>(selection).inner;
  }
  static const Selection& inner_of(const Selection& selection) {
    return static_cast<const FarSelection&>(selection).inner;
  }

  std::unique_ptr<Backend> inner_;
  std::shared_ptr<FarMemory> memory_ = std::make_shared<FarMemory>();
};

}  // namespace

std::unique_ptr<Backend> make_far_memory_backend(std::optional<DType> cache) {
  return std::make_unique<FarMemoryBackend>(cache);
}

}  // namespace kascade::testing
