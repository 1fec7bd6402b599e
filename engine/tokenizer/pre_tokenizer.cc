#include "engine/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/tokenizer/normalizer.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/word_patterns.h"

namespace kascade::bpe {
namespace {

// Returns the error of a pattern with the name of its field before the message.
absl::Status at_path(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

PrependScheme read_prepend_scheme(ObjectReader& reader) {
  const std::optional<std::string> scheme = reader.optional_text("prepend_scheme");
  const bool wants_prefix = reader.boolean("add_prefix_space", true);
  if (!scheme) return wants_prefix ? PrependScheme::kAlways : PrependScheme::kNever;
  if (!wants_prefix && *scheme != "never") {
    reader.fail(unsupported(reader.path_of("add_prefix_space"), false,
                            "true, or prepend_scheme \"never\""));
  }
  if (*scheme == "never") return PrependScheme::kNever;
  if (*scheme == "first") return PrependScheme::kFirst;
  if (*scheme != "always") {
    reader.fail(unsupported(reader.path_of("prepend_scheme"), *scheme, "always, first, never"));
  }
  return PrependScheme::kAlways;
}

std::string read_replacement(ObjectReader& reader) {
  const std::string replacement = reader.text("replacement");
  if (replacement.empty() || utf8_length(replacement[0]) != replacement.size()) {
    reader.fail(malformed(reader.path_of("replacement"), replacement, "one character"));
  }
  reader.ignore("str_rep");  // a copy of `replacement` in older files
  return replacement;
}

absl::StatusOr<PreTokenizer> PreTokenizer::parse(const Json* json) {
  PreTokenizer pre_tokenizer;
  if (!json) return pre_tokenizer;
  const absl::Status status = pre_tokenizer.add(*json, "pre_tokenizer");
  if (!status.ok()) return status;
  return pre_tokenizer;
}

absl::Status PreTokenizer::add(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  const std::string type = reader.text("type");
  if (byte_level_) {
    reader.fail(absl::UnimplementedError(
        absl::StrCat(path, ": found ", type, " behind ByteLevel, supported: ByteLevel last")));
  }
  if (type == "Sequence") {
    const Json& parts = reader.array("pretokenizers");
    for (size_t i = 0; i < parts.size() && reader.status().ok(); ++i) {
      reader.fail(add(parts[i], absl::StrCat(path, ".pretokenizers[", i, "]")));
    }
  } else if (type == "ByteLevel") {
    reader.fail(add_byte_level(reader));
  } else if (type == "Split") {
    reader.fail(add_split(reader));
  } else if (type == "Digits") {
    reader.fail(add_digits(reader));
  } else if (type == "Punctuation") {
    reader.fail(add_punctuation(reader));
  } else if (type == "Metaspace") {
    reader.fail(add_metaspace(reader));
  } else {
    reader.fail(unsupported(reader.path_of("type"), type,
                            "Sequence, ByteLevel, Split, Digits, Punctuation, Metaspace, or null"));
  }
  return reader.finish();
}

absl::Status PreTokenizer::add_byte_level(ObjectReader& reader) {
  byte_level_ = true;
  Step step;
  if (reader.boolean("add_prefix_space", true)) step.prefix = " ";
  if (reader.boolean("use_regex", true)) {
    auto pattern = Pattern::compile(kGpt2Pattern);
    if (!pattern.ok()) return pattern.status();
    step.pattern = *std::move(pattern);
    step.word_ends = word_ends_of(kGpt2Pattern);
  }
  reader.ignore("trim_offsets");  // concerns offsets, which this tokenizer does not report
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::add_split(ObjectReader& reader) {
  const std::string behavior = reader.text("behavior");
  if (behavior != "Isolated" && behavior != "Removed") {
    reader.fail(unsupported(reader.path_of("behavior"), behavior, "Isolated, Removed"));
  }
  // `invert` exchanges matches and the stretches between them. Where both become pieces, the result
  // is the same.
  const bool invert = reader.boolean("invert", false);
  KeptPieces kept = KeptPieces::kAll;
  if (behavior == "Removed") kept = invert ? KeptPieces::kMatches : KeptPieces::kGaps;

  ObjectReader pattern(reader.object("pattern"), reader.path_of("pattern"));
  const std::optional<std::string> regex = pattern.optional_text("Regex");
  const std::string text = regex ? *regex : pattern.text("String");
  reader.fail(pattern.finish());
  if (!reader.status().ok()) return reader.status();
  if (text.empty()) return malformed(reader.path_of("pattern"), "", "some text");
  auto compiled = regex ? Pattern::compile(text) : Pattern::compile_literal(text);
  if (!compiled.ok()) return at_path(reader.path_of("pattern"), compiled.status());
  steps_.push_back({.pattern = *std::move(compiled),
                    .kept = kept,
                    .word_ends = regex ? word_ends_of(text) : WordEnds::kUnknown});
  return absl::OkStatus();
}

absl::Status PreTokenizer::add_pattern(std::string_view pattern) {
  auto compiled = Pattern::compile(pattern);
  if (!compiled.ok()) return compiled.status();
  steps_.push_back({.pattern = *std::move(compiled), .word_ends = word_ends_of(pattern)});
  return absl::OkStatus();
}

absl::Status PreTokenizer::add_digits(ObjectReader& reader) {
  return add_pattern(reader.boolean("individual_digits", false) ? "\\p{N}" : "\\p{N}+");
}

// ASCII's punctuation has characters that are symbols for Unicode, such as '$' and '+'.
absl::Status PreTokenizer::add_punctuation(ObjectReader& reader) {
  const std::string behavior = reader.optional_text("behavior").value_or("Isolated");
  if (behavior != "Isolated" && behavior != "Contiguous") {
    return unsupported(reader.path_of("behavior"), behavior, "Isolated, Contiguous");
  }
  const std::string one = R"([!-/:-@\[-`{-~\p{P}])";
  return add_pattern(behavior == "Contiguous" ? one + "+" : one);
}

absl::Status PreTokenizer::add_metaspace(ObjectReader& reader) {
  Step step;
  step.space = read_replacement(reader);
  const PrependScheme scheme = read_prepend_scheme(reader);
  if (scheme != PrependScheme::kNever) step.prefix = step.space;
  step.prefix_at_start_only = scheme == PrependScheme::kFirst;
  const bool splits = reader.boolean("split", true);
  if (!reader.status().ok()) return reader.status();
  if (splits) {
    // Every space starts a new piece, whose first character is the replacement.
    const bool is_special = step.space.size() == 1;
    const std::string one = is_special ? absl::StrCat("\\", step.space) : step.space;
    auto pattern = Pattern::compile(absl::StrCat(one, "[^", one, "]*"));
    if (!pattern.ok()) return at_path(reader.path_of("replacement"), pattern.status());
    step.pattern = *std::move(pattern);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

// A step copies the text to replace its spaces, and once more to put the prefix in front.
size_t PreTokenizer::most_memory(size_t text_bytes) const {
  size_t memory = 0;
  size_t bytes = text_bytes;
  for (const Step& step : steps_) {
    if (step.space.empty() && step.prefix.empty()) continue;
    memory += bytes;
    bytes = bytes * std::max<size_t>(1, step.space.size()) + step.prefix.size();
    memory += 2 * bytes;
  }
  return memory;
}

bool PreTokenizer::splits_at_word_ends() const {
  const bool none_crosses = std::ranges::all_of(steps_, [](const Step& step) {
    const bool changes_text = !step.space.empty() || !step.prefix.empty();
    return !changes_text && (!step.pattern || step.word_ends != WordEnds::kUnknown);
  });
  return none_crosses && std::ranges::any_of(steps_, [](const Step& step) {
           return step.word_ends == WordEnds::kBorders;
         });
}

bool PreTokenizer::drops_text() const {
  return std::ranges::any_of(steps_,
                             [](const Step& step) { return step.kept != KeptPieces::kAll; });
}

absl::Status PreTokenizer::run(std::string_view text, bool at_start, size_t step_index,
                               const PieceSink& sink) const {
  if (step_index == steps_.size()) return sink(text);
  const Step& step = steps_[step_index];
  std::string changed;
  if (!step.space.empty() && text.find(' ') != text.npos) {
    changed = text;
    replace_all(changed, " ", step.space);
    text = changed;
  }
  const bool wants_prefix = at_start || !step.prefix_at_start_only;
  if (wants_prefix && !text.empty() && !text.starts_with(step.prefix)) {
    changed = step.prefix + std::string(text);
    text = changed;
  }
  if (!step.pattern) return run(text, at_start, step_index + 1, sink);
  const PieceSink next = [&](std::string_view piece) {
    return run(piece, at_start && piece.data() == text.data(), step_index + 1, sink);
  };
  switch (step.kept) {
    case KeptPieces::kAll:
      return step.pattern->split(text, next);
    case KeptPieces::kMatches:
      return step.pattern->find_matches(text, next);
    case KeptPieces::kGaps:
      return step.pattern->find_gaps(text, next);
  }
  KASCADE_CHECK(false);
}

}  // namespace kascade::bpe
