// The base of all backends that run on the host's CPUs: their memory is host memory, and they read
// a step's index arrays in place.
#ifndef KASCADE_ENGINE_BACKEND_HOST_HOST_BACKEND_H_
#define KASCADE_ENGINE_BACKEND_HOST_HOST_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/backend/backend.h"

namespace kascade {

class HostStepInput final : public StepInput {
 public:
  explicit HostStepInput(const Batch& batch) : batch_(batch) {}
  const Batch& batch() const { return batch_; }

 private:
  const Batch& batch_;
};

inline const Batch& batch_of(const StepInput& step) {
  return static_cast<const HostStepInput&>(step).batch();
}

class HostSelection final : public Selection {
 public:
  int32_t tiles() const override { return tiles_; }
  int32_t kv_heads() const override { return kv_heads_; }
  std::vector<int32_t> read(int32_t tile, int32_t kv_head) const override {
    const auto chosen = keys(tile, kv_head);
    return {chosen.begin(), chosen.end()};
  }
  int32_t count(int32_t tile, int32_t kv_head) const override {
    return counts_[index(tile, kv_head)];
  }

  // Makes room for the selections of these tiles. Each (tile, KV head) gets room for the largest of
  // the tiles' budgets.
  void reset(const Batch& batch, TileRange tiles, int32_t kv_heads);
  // The place for the keys of a tile and KV head. Whoever writes keys there then states their
  // number with set_count().
  std::span<int32_t> slot(int32_t tile, int32_t kv_head) {
    return {indices_.data() + index(tile, kv_head) * capacity_, static_cast<size_t>(capacity_)};
  }
  void set_count(int32_t tile, int32_t kv_head, int32_t count) {
    counts_[index(tile, kv_head)] = count;
  }
  std::span<const int32_t> keys(int32_t tile, int32_t kv_head) const {
    const size_t at = index(tile, kv_head);
    return {indices_.data() + at * capacity_, static_cast<size_t>(counts_[at])};
  }

 private:
  size_t index(int32_t tile, int32_t kv_head) const {
    return static_cast<size_t>(tile) * kv_heads_ + kv_head;
  }

  int32_t tiles_ = 0;
  int32_t kv_heads_ = 0;
  int32_t capacity_ = 0;          // most keys of a (tile, head)
  std::vector<int32_t> indices_;  // [tiles, kv_heads, capacity]
  std::vector<int32_t> counts_;   // [tiles, kv_heads]
};

inline HostSelection& host_selection(Selection& selection) {
  return static_cast<HostSelection&>(selection);
}
inline const HostSelection& host_selection(const Selection& selection) {
  return static_cast<const HostSelection&>(selection);
}

class HostEmbedding final : public EmbeddingTable {
 public:
  explicit HostEmbedding(Tensor table) : table_(table) {}
  Tensor table() const { return table_; }

 private:
  Tensor table_;
};

class HostBackend : public Backend {
 public:
  Buffer allocate(DType dtype, int64_t rows, int64_t cols) override;
  void upload(std::span<const std::byte> host, Tensor to) override;
  void download(Tensor from, std::span<std::byte> host) override;
  void copy(Tensor from, Tensor to) override;
  void gather_rows(Tensor from, std::span<const int32_t> rows, Tensor to) override;

  std::unique_ptr<EmbeddingTable> adopt_embedding(Tensor table) override;
  std::unique_ptr<StepInput> prepare(const Batch& batch) override;
  std::unique_ptr<Selection> make_selection() override;
  std::unique_ptr<LogitStatistics> make_logit_statistics() override;

  void rotary_angles(const StepInput& step, std::span<const double> frequencies,
                     Tensor out) override;
  void select_none(LayerCache cache, const StepInput& step, TileRange tiles,
                   Selection& selection) override;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_HOST_HOST_BACKEND_H_
