// One step as host-side index arrays: which tokens it feeds, where their keys and values go, how
// rows form tiles. It knows no sequence and no request. Made by the batch builder, read by
// attention policies and tests; Backend::prepare() turns it into what the operations take.
#ifndef KASCADE_ENGINE_BACKEND_BATCH_H_
#define KASCADE_ENGINE_BACKEND_BATCH_H_

#include <cstdint>
#include <vector>

namespace kascade {

// The rows of one step, sequence after sequence. A *tile* is a run of rows of one sequence that
// share one choice of keys: the rows of a query tile (per-tile selection), or a single row
// (per-query selection).
struct Batch {
  std::vector<int32_t> tokens{};     // [rows] token ids
  std::vector<int32_t> positions{};  // [rows] absolute positions
  std::vector<int32_t> slots{};      // [rows] cache slot of the row: block · block_size + offset

  std::vector<int32_t> block_tables{};  // [seqs, table_width] block ids in order of position
  int32_t table_width = 0;

  std::vector<int32_t> tile_start{};       // [tiles + 1] first row of each tile
  std::vector<int32_t> tile_seq{};         // [tiles] row of block_tables
  std::vector<int32_t> candidate_begin{};  // [tiles] keys below are sinks: always attended
  std::vector<int32_t> candidate_end{};  // [tiles] keys from here up to the row's own position are
                                         //         always attended
  std::vector<int32_t> budget{};  // [tiles] keys to choose of [candidate_begin, candidate_end)

  std::vector<int32_t> logit_rows{};  // [logits] rows whose hidden state is wanted, ascending

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
  int32_t tiles() const { return static_cast<int32_t>(tile_seq.size()); }
  const int32_t* block_table(int32_t tile) const {
    return block_tables.data() + static_cast<int64_t>(tile_seq[tile]) * table_width;
  }
};

// A run of tiles of the batch, e.g. those of one attention policy.
struct TileRange {
  int32_t begin = 0;
  int32_t count = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BATCH_H_
