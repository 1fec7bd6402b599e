#include "engine/tokenizer/encoding_run.h"

#include <numeric>

#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

// Of the list of ids, for each of them: when a full list grows, its old and its doubled new copy
// exist side by side.
constexpr size_t kBytesPerToken = 3 * sizeof(int32_t);
// Steps of growth that are worth a question of their own.
constexpr size_t kManyBytes = 65536;
constexpr size_t kManyTokens = 4096;

}  // namespace

absl::Status EncodingRun::hold(Use use, size_t bytes) {
  size_t& held = held_[static_cast<size_t>(use)];
  if (bytes <= held) return absl::OkStatus();
  const size_t growth = bytes - held;
  held = bytes;
  return growth < kManyBytes ? absl::OkStatus() : ask(0);
}

absl::Status EncodingRun::expect_tokens(size_t count) {
  if (ids.size() + count > bounds_.max_tokens) return too_many_tokens();
  return count < kManyTokens ? absl::OkStatus() : ask(count);
}

absl::Status EncodingRun::expect_text(size_t bytes, std::optional<size_t> bytes_per_token) const {
  if (!bytes_per_token || ids.size() + bytes / *bytes_per_token <= bounds_.max_tokens) {
    return absl::OkStatus();
  }
  return too_many_tokens();
}

absl::Status EncodingRun::ask(size_t more_tokens) {
  work_ = 0;
  if (ids.size() > bounds_.max_tokens) return too_many_tokens();
  if (bounds_.watch == nullptr) return absl::OkStatus();
  const size_t held = std::accumulate(held_.begin(), held_.end(), size_t{0});
  return bounds_.watch->proceed(held + kBytesPerToken * (ids.size() + more_tokens));
}

absl::Status EncodingRun::too_many_tokens() const {
  return absl::OutOfRangeError(absl::StrCat("more than ", bounds_.max_tokens, " tokens"));
}

}  // namespace kascade::bpe
