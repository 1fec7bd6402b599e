// One step as index arrays in host memory: the tokens that it feeds, the cache slots of their keys
// and values, and the tiles that its rows form. A batch knows no sequence and no request. The batch
// builder makes it, attention policies and tests read it, and Backend::prepare() turns it into what
// the operations take.
#ifndef KASCADE_ENGINE_BACKEND_BATCH_H_
#define KASCADE_ENGINE_BACKEND_BATCH_H_

#include <cstdint>
#include <vector>

namespace kascade {

// The rows of one step, sequence after sequence. A *tile* is consecutive rows of one sequence that
// a backend attends together. Where keys are selected, its rows share one selection: the rows of a
// query tile (per-tile selection), or a single row (per-query selection).
struct Batch {
  std::vector<int32_t> tokens{};     // [rows] token ids
  std::vector<int32_t> positions{};  // [rows] absolute positions
  std::vector<int32_t> slots{};      // [rows] cache slot of the row: block · block_size + offset

  std::vector<int32_t> block_tables{};  // [seqs, table_width] block ids in order of position
  int32_t table_width = 0;

  std::vector<int32_t> tile_start{};  // [tiles + 1] first row of each tile
  std::vector<int32_t> tile_seq{};    // [tiles] row of block_tables
  // [tiles] The keys below candidate_begin (the sinks), and those from candidate_end up to the
  // row's own position, are always attended to. Of the keys between them `budget` are selected, or
  // at most so many where the number follows the scores.
  std::vector<int32_t> candidate_begin{};
  std::vector<int32_t> candidate_end{};
  std::vector<int32_t> budget{};

  // [logits] The rows whose final hidden state is returned, ascending.
  std::vector<int32_t> logit_rows{};

  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
  int32_t tiles() const { return static_cast<int32_t>(tile_seq.size()); }
  const int32_t* block_table(int32_t tile) const {
    return block_tables.data() + static_cast<int64_t>(tile_seq[tile]) * table_width;
  }
};

// Consecutive tiles of a batch, for example those of one attention policy.
struct TileRange {
  int32_t begin = 0;
  int32_t count = 0;
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_BACKEND_BATCH_H_
