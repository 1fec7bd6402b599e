#include "engine/cache/blocks.h"

#include <numeric>
#include <utility>

#include "engine/base/check.h"

namespace kascade {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : allocator_(other.allocator_), blocks_(std::exchange(other.blocks_, {})) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  clear();
  allocator_ = other.allocator_;
  blocks_ = std::exchange(other.blocks_, {});
  return *this;
}

bool BlockTable::grow(int32_t tokens) {
  KASCADE_CHECK(tokens >= 0);
  std::vector<int32_t>& free = allocator_->free_;
  const auto wanted = static_cast<size_t>(allocator_->blocks_for(tokens));
  if (wanted <= blocks_.size()) return true;
  if (wanted - blocks_.size() > free.size()) return false;
  while (blocks_.size() < wanted) {
    blocks_.push_back(free.back());
    free.pop_back();
  }
  return true;
}

void BlockTable::clear() {
  // The order is reversed so that the blocks are handed out again in the same order.
  allocator_->free_.insert(allocator_->free_.end(), blocks_.rbegin(), blocks_.rend());
  blocks_.clear();
  KASCADE_CHECK(allocator_->free_blocks() <= allocator_->total_);
}

BlockAllocator::BlockAllocator(int32_t blocks, int32_t block_size)
    : total_(blocks), block_size_(block_size) {
  KASCADE_CHECK(blocks >= 0 && block_size >= 1);
  free_.resize(static_cast<size_t>(blocks));
  std::iota(free_.rbegin(), free_.rend(), 0);  // block 0 on top of the stack
}

BlockAllocator::~BlockAllocator() { KASCADE_CHECK(free_blocks() == total_); }

}  // namespace kascade
