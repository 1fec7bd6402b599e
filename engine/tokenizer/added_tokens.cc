#include "engine/tokenizer/added_tokens.h"

#include <algorithm>

#include "engine/tokenizer/utf8.h"

namespace kascade::bpe {
namespace {

uint64_t edge(int32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

}  // namespace

void AddedTokenFinder::add(std::string_view content, const AddedToken& token) {
  if (content.empty()) return;
  int32_t node = 0;
  for (const char byte : content) {
    const auto next = static_cast<int32_t>(leaf_of_node_.size());
    const auto [found, is_new] = edges_.try_emplace(edge(node, byte), next);
    if (is_new) leaf_of_node_.push_back(-1);
    node = found->second;
  }
  leaf_of_node_[node] = static_cast<int32_t>(leaves_.size());
  leaves_.push_back({token.id, token.lstrip, token.rstrip});
  starts_[static_cast<uint8_t>(content[0])] = true;
  if (token.lstrip || token.rstrip) longest_token_.reset();
  if (longest_token_) longest_token_ = std::max(*longest_token_, content.size());
}

AddedTokenFinder::Match AddedTokenFinder::longest_at(std::string_view text) const {
  Match match;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto found = edges_.find(edge(node, text[i]));
    if (found == edges_.end()) break;
    node = found->second;
    if (leaf_of_node_[node] >= 0) match = {i + 1, leaf_of_node_[node]};
  }
  return match;
}

absl::Status AddedTokenFinder::split(
    std::string_view text, EncodingRun& run,
    const std::function<absl::Status(const Segment&)>& sink) const {
  size_t done = 0;
  absl::Status status;
  for (size_t i = 0; i < text.size();) {
    Match match;
    if (starts_[static_cast<uint8_t>(text[i])]) {
      match = longest_at(text.substr(i));
      if (status = run.add_work(1); !status.ok()) return status;
    }
    if (match.length == 0) {
      ++i;
      continue;
    }
    const Leaf& leaf = leaves_[match.leaf];
    size_t begin = i;
    size_t end = i + match.length;
    if (leaf.lstrip) begin = begin - trailing_space_length(text.substr(done, begin - done));
    if (leaf.rstrip) end += leading_space_length(text.substr(end));
    if (begin > done) status = sink({text.substr(done, begin - done), -1});
    if (status.ok()) status = sink({text.substr(begin, end - begin), leaf.id});
    if (!status.ok()) return status;
    done = i = end;
  }
  return done < text.size() ? sink({text.substr(done), -1}) : absl::OkStatus();
}

}  // namespace kascade::bpe
