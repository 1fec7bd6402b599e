// The options of a sparse adapter: trained attention that replaces the attention of every layer of
// a frozen model by three branches, each a softmax of its own, weighted by a gate
// (docs/adapters.md; Native Sparse Attention, arXiv 2502.11089, section 3).
//
//   compressed: windows of `compress_block` keys, one every `compress_stride` tokens, become one
//   key
//               and one value each, learned from keys and values before rotation;
//   selected:   the keys of the blocks of `selection_block` tokens in which the compressed branch
//               sees most probability;
//   window:     the last `window` keys, the row's own included.
#ifndef KASCADE_ENGINE_ADAPTER_OPTIONS_H_
#define KASCADE_ENGINE_ADAPTER_OPTIONS_H_

#include <array>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kascade {

// How the keys or the values of a window become one: component by component the largest or the
// mean, or a network of one hidden layer (ReLU) over all of them.
enum class Compressor { kMax, kMean, kMlp };
enum class GateFunction { kSigmoid, kSoftmax };  // softmax: the weights of a head add up to 1

enum class Branch { kCompressed, kSelected, kWindow };
inline constexpr int kBranches = 3;

struct AdapterOptions {
  int32_t compress_block = 16;   // tokens, [1, 256]
  int32_t compress_stride = 16;  // tokens, divides compress_block
  Compressor key_compressor = Compressor::kMax;
  Compressor value_compressor = Compressor::kMlp;
  // Units of the hidden layer ÷ its inputs, (0, 4]; the inputs are compress_block · head_dim. There
  // are at least head_dim units.
  double mlp_expansion = 1;
  bool mlp_bias = false;
  bool shared_mlp = false;        // one network for all KV heads instead of one for each
  bool shared_positions = false;  // the same for the positions in front of a network
  bool compressor_norm =
      false;  // RMSNorm of each compressed key and value, with a weight [head_dim]
  // Learned keys and values that the compressed branch of every row sees, [0, 16]. Without one, a
  // row that sees no window yet has a compressed branch of 0.
  int32_t memory_slots = 1;
  // Whether a row sees the window that ends with the row itself; if not, it sees only those that
  // ended before it.
  bool sees_own_window = false;

  int32_t selection_block = 16;  // tokens, a multiple of compress_stride, ≥ compress_block
  // Blocks that a row selects at most, [1, 4,096]: the first `first_blocks`, the last
  // `local_blocks` up to the row's own, then those with the most probability.
  int32_t selected_blocks = 4;
  int32_t first_blocks = 0;  // ≥ 0
  int32_t local_blocks = 1;  // ≥ 1: the row's own block is always selected
  int32_t window = 64;       // keys, [1, 1,048,576]

  GateFunction gate = GateFunction::kSigmoid;
  // What the gate's biases are before training, in the order of Branch; [-100, 100] each.
  std::array<double, kBranches> gate_start{-2, -2, 2};
  // An output projection of the adapter's own, trained, in the place of the frozen one.
  bool own_output = false;
  // Projections of queries, keys and values of the adapter's own, trained as well.
  bool own_projections = false;

  bool operator==(const AdapterOptions&) const = default;
};

// INVALID_ARGUMENT names the option, its limit and its value.
absl::Status validate(const AdapterOptions& options);

std::string_view name_of(Compressor compressor);  // "max_pool", "mean_pool", "mlp"
std::string_view name_of(GateFunction gate);      // "sigmoid", "softmax"
// INVALID_ARGUMENT lists the names.
absl::StatusOr<Compressor> compressor_named(std::string_view name);
absl::StatusOr<GateFunction> gate_named(std::string_view name);

}  // namespace kascade

#endif  // KASCADE_ENGINE_ADAPTER_OPTIONS_H_
