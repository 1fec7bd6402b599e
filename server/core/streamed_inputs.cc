#include "server/core/streamed_inputs.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/refusal.h"
#include "engine/tokenizer/utf8.h"

namespace kascade::core {
namespace {

constexpr int64_t kBeginningBytes = 4096;  // no token's spelling is longer
constexpr int64_t kInputBytes = 512;       // of an input without its contents
// What make_room() holds, in pieces: the message as it came, as it was parsed, and its tokens.
constexpr int64_t kRoomInPieces = 3;

template <typename List>
int64_t bytes_of(const List& list) {
  return static_cast<int64_t>(list.capacity() * sizeof(list[0]));
}

// Makes room for `more` elements. While a list moves, its old and its new memory exist.
template <typename List>
absl::Status grow(List& list, size_t more, RequestGuard& guard) {
  const size_t needed = list.size() + more;
  if (needed <= list.capacity()) return absl::OkStatus();
  const int64_t before = bytes_of(list);
  const size_t capacity = std::max(needed, list.capacity() + list.capacity() / 2);
  // A string takes one byte more.
  absl::Status status = guard.hold_more(static_cast<int64_t>((capacity + 1) * sizeof(list[0])));
  if (!status.ok()) return status;
  list.reserve(capacity);
  return guard.hold_more(-before);
}

}  // namespace

absl::Status StreamedInputs::begin(const PromptOptions& options, absl::Time deadline) {
  guard_.set_deadline(deadline);
  auto encoder = PromptEncoder::create(engine_, options);
  if (!encoder.ok()) return encoder.status();
  encoder_ = *std::move(encoder);
  return absl::OkStatus();
}

absl::Status StreamedInputs::make_room() {
  absl::Status status = guard_.hold_more(has_room_ ? 0 : kRoomInPieces * max_piece_bytes_);
  if (!status.ok()) return status;
  has_room_ = true;
  if (inputs_.empty()) return absl::OkStatus();
  // What is smaller than a piece grows within the room that is held already.
  Input& input = inputs_.back();
  const auto bytes = static_cast<size_t>(max_piece_bytes_);
  const auto ids = static_cast<size_t>(max_piece_ids());
  if (input.rest.size() > bytes) return grow(input.rest, bytes, guard_);
  return input.ids.size() > ids ? grow(input.ids, ids, guard_) : absl::OkStatus();
}

absl::Status StreamedInputs::check(const InputPiece& piece) const {
  const auto next = static_cast<int32_t>(inputs_.size());
  const bool is_next = piece.input == next;
  if (!is_next && (next == 0 || piece.input != next - 1)) {
    return invalid_field("piece.input_index",
                         absl::StrCat("must be ", next == 0 ? "" : absl::StrCat(next - 1, " or "),
                                      next, ", got ", piece.input));
  }
  if (is_next && next == kMaxTexts) return check_text_count("inputs", size_t{kMaxTexts} + 1);
  const bool is_text = std::holds_alternative<std::string_view>(piece.content);
  const std::string content = is_text ? "piece.text" : "piece.token_ids";
  if (!is_next && inputs_.back().is_text != is_text) {
    return invalid_field(content, "the pieces of an input are of one kind");
  }
  const size_t size = std::visit([](const auto& list) { return list.size(); }, piece.content);
  const int64_t most = is_text ? max_piece_bytes_ : max_piece_ids();
  if (size >= 1 && static_cast<int64_t>(size) <= most) return absl::OkStatus();
  return invalid_field(content, absl::StrCat("must be 1 to ", most, is_text ? " bytes" : " ids",
                                             " (Limits.max_piece_bytes), got ", size));
}

absl::Status StreamedInputs::begin_input(const InputPiece& piece) {
  const bool is_text = std::holds_alternative<std::string_view>(piece.content);
  if (piece.context && !is_text) {
    return invalid_field("piece.context", "goes with text; use context_tokens with token_ids");
  }
  if (piece.context_tokens && is_text) {
    return invalid_field("piece.context_tokens", "goes with token_ids; use context with text");
  }
  if (absl::Status status = end_input(); !status.ok()) return status;
  const std::string_view context = piece.context.value_or(std::string_view());
  const auto bytes = kInputBytes + static_cast<int64_t>(context.size());
  if (absl::Status status = guard_.hold_more(bytes); !status.ok()) return status;
  inputs_.push_back({.is_text = is_text,
                     .has_context = !context.empty(),
                     .context = std::string(context),
                     .context_tokens = piece.context_tokens.value_or(0),
                     .try_next = encoded_at_once_});
  return absl::OkStatus();
}

absl::Status StreamedInputs::add(const InputPiece& piece) {
  if (absl::Status status = check(piece); !status.ok()) return status;
  if (piece.input == static_cast<int32_t>(inputs_.size())) {
    if (absl::Status status = begin_input(piece); !status.ok()) return status;
  } else if (piece.context || piece.context_tokens) {
    return invalid_field(piece.context ? "piece.context" : "piece.context_tokens",
                         "goes with the first piece of an input only");
  }
  Input& input = inputs_.back();
  if (input.is_text) return add_text(std::get<std::string_view>(piece.content), input);
  return add_ids(std::get<std::span<const Token>>(piece.content), input);
}

absl::Status StreamedInputs::add_text(std::string_view text, Input& input) {
  if (input.counter.bytes() + static_cast<int64_t>(text.size()) > int64_t{kMaxTextBytes}) {
    return invalid_field(field(), absl::StrCat("more than ", kMaxTextBytes, " bytes"),
                         reason::kTooLong);
  }
  if (absl::Status status = grow(input.rest, text.size(), guard_); !status.ok()) return status;
  input.rest += text;
  input.counter.add(text);
  if (absl::Status status = check_utf8(/*is_complete=*/false, input); !status.ok()) return status;
  // Context and text are encoded as one.
  if (input.has_context || input.rest.size() < input.try_next) return absl::OkStatus();
  const std::string_view valid = std::string_view(input.rest).substr(0, input.valid);
  const size_t length = engine_.tokenizer().independent_prefix(valid);
  if (absl::Status status = encode(valid.substr(0, length), input); !status.ok()) return status;
  input.rest.erase(0, length);
  input.valid -= length;
  // What could not be cut is not looked at again until it has doubled.
  input.try_next = std::max(encoded_at_once_, 2 * input.rest.size());
  return absl::OkStatus();
}

absl::Status StreamedInputs::add_ids(std::span<const Token> ids, Input& input) {
  if (absl::Status status = grow(input.ids, ids.size(), guard_); !status.ok()) return status;
  input.ids.insert(input.ids.end(), ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status StreamedInputs::check_utf8(bool is_complete, Input& input) const {
  input.valid += bpe::valid_utf8_length(std::string_view(input.rest).substr(input.valid));
  const std::string_view left = std::string_view(input.rest).substr(input.valid);
  const bool may_be_cut =
      left.empty() || bpe::first_utf8_unit(left).kind == bpe::Utf8Unit::Kind::kCutOff;
  if (may_be_cut && (left.empty() || !is_complete)) return absl::OkStatus();
  const int64_t place = input.counter.bytes() - static_cast<int64_t>(left.size());
  return invalid_field(field(), absl::StrCat("text is not UTF-8 at byte ", place));
}

absl::Status StreamedInputs::encode(std::string_view text, Input& input) {
  if (text.empty()) return absl::OkStatus();
  if (input.parts.empty()) {
    if (absl::Status status = guard_.hold_more(kBeginningBytes); !status.ok()) return status;
    input.beginning = text.substr(0, kBeginningBytes);
  }
  auto tokens = encoder_->part(text, field(), {.watch = &guard_});
  if (!tokens.ok()) return tokens.status();
  tokens->shrink_to_fit();
  input.parts.push_back(*std::move(tokens));
  return guard_.hold_more(bytes_of(input.parts.back()) + int64_t{2 * sizeof(input.parts[0])});
}

// What is not encoded of a text that was encoded in parts is the last part.
absl::Status StreamedInputs::end_input() {
  if (inputs_.empty() || !inputs_.back().is_text) return absl::OkStatus();
  Input& input = inputs_.back();
  if (absl::Status status = check_utf8(/*is_complete=*/true, input); !status.ok()) return status;
  if (input.parts.empty()) return absl::OkStatus();
  if (absl::Status status = encode(input.rest, input); !status.ok()) return status;
  const int64_t bytes = bytes_of(input.rest);
  input.rest = std::string();
  return guard_.hold_more(-bytes);
}

absl::Status StreamedInputs::end() {
  if (inputs_.empty()) return invalid_field("inputs", "no piece came before `end`");
  return end_input();
}

std::vector<ScoreInput> StreamedInputs::inputs() const {
  std::vector<ScoreInput> out;
  out.reserve(inputs_.size());
  for (const Input& input : inputs_) {
    if (!input.is_text) {
      out.emplace_back(TokensToScore{.tokens = input.ids, .context_tokens = input.context_tokens});
    } else if (input.parts.empty()) {
      out.emplace_back(TextToScore{.text = input.rest, .context = input.context});
    } else {
      out.emplace_back(EncodedText{.parts = input.parts,
                                   .beginning = input.beginning,
                                   .bytes = input.counter.bytes(),
                                   .words = input.counter.words()});
    }
  }
  return out;
}

size_t StreamedInputs::bytes_to_encode() const {
  return inputs_.empty() ? 0 : inputs_.back().rest.size();
}

size_t StreamedInputs::bytes_to_prepare() const {
  size_t bytes = 0;
  for (const Input& input : inputs_) {
    bytes += input.rest.size();
    for (const std::vector<Token>& part : input.parts) bytes += part.size();
  }
  return bytes;
}

void StreamedInputs::release() {
  inputs_.clear();
  (void)guard_.hold_more(-guard_.held_bytes());  // not needed where the client is gone
}

std::string StreamedInputs::field() const {
  return absl::StrCat("inputs[", inputs_.size() - 1, "].text");
}

}  // namespace kascade::core
