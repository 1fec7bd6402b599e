// The ids of cache blocks and which of them are free; this file holds none of the cache's memory. A
// table returns its blocks when it is destroyed, so that finishing, cancelling, failing and
// preemption are one path. Used on the engine's thread only.
#ifndef KASCADE_ENGINE_CACHE_BLOCKS_H_
#define KASCADE_ENGINE_CACHE_BLOCKS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace kascade {

class BlockAllocator;

// The blocks of one sequence in order of position: token t lies in block t / block_size.
class BlockTable {
 public:
  explicit BlockTable(BlockAllocator& allocator) : allocator_(&allocator) {}
  ~BlockTable() { clear(); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&& other) noexcept;
  BlockTable(const BlockTable&) = delete;
  BlockTable& operator=(const BlockTable&) = delete;

  std::span<const int32_t> blocks() const { return blocks_; }
  // Allocates blocks until the table has room for `tokens` tokens in all; never shrinks. Returns
  // false, and leaves the table as it is, if there are too few free blocks.
  bool grow(int32_t tokens);
  void clear();  // returns all blocks

 private:
  BlockAllocator* allocator_;
  std::vector<int32_t> blocks_;
};

class BlockAllocator {
 public:
  BlockAllocator(int32_t blocks, int32_t block_size);
  ~BlockAllocator();  // CHECKs that every table has returned its blocks
  BlockAllocator(const BlockAllocator&) = delete;
  BlockAllocator& operator=(const BlockAllocator&) = delete;

  int32_t block_size() const { return block_size_; }
  int32_t total_blocks() const { return total_; }
  int32_t free_blocks() const { return static_cast<int32_t>(free_.size()); }
  int32_t blocks_for(int32_t tokens) const { return (tokens + block_size_ - 1) / block_size_; }

 private:
  friend class BlockTable;
  int32_t total_;
  int32_t block_size_;
  std::vector<int32_t> free_;  // used as a stack
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_CACHE_BLOCKS_H_
