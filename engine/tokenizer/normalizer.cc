#include "engine/tokenizer/normalizer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

// Of Unicode's normalization forms, for each byte of the text: the bytes that it becomes at most,
// and the bytes that utf8proc takes meanwhile, four for each character. Of the compatibility forms
// U+FDFA grows most, from 3 bytes to 18 characters, and of the others U+0390, from 2 bytes to 3
// characters.
struct FormCost {
  size_t growth = 0;
  size_t memory = 0;
};
FormCost cost_of(UnicodeForm form) {
  const bool is_compatible = form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
  return is_compatible ? FormCost{.growth = 11, .memory = 24} : FormCost{.growth = 3, .memory = 6};
}
// The reverse: letters of four bytes become ASCII ones (U+1D400), and a letter with several marks
// becomes one of two or three bytes.
constexpr size_t kMostFormShortening = 4;

size_t quotient_up(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  size_t found = text.find(from);
  if (found == std::string::npos) return;
  size_t count = 0;
  for (size_t at = found; at != std::string::npos; at = text.find(from, at + from.size())) ++count;
  std::string result;
  // Exactly as long as needed: a text may be large.
  result.reserve(text.size() - count * from.size() + count * to.size());
  size_t copied = 0;
  for (; found != std::string::npos; found = text.find(from, copied)) {
    result.append(text, copied, found - copied);
    result += to;
    copied = found + from.size();
  }
  result.append(text, copied);
  text = std::move(result);
}

absl::StatusOr<Normalizer> Normalizer::parse(const Json* json) {
  Normalizer normalizer;
  if (!json) return normalizer;
  const absl::Status status = normalizer.add(*json, "normalizer");
  if (!status.ok()) return status;
  return normalizer;
}

absl::Status Normalizer::add(const Json& json, const std::string& path) {
  ObjectReader reader(json, path);
  const std::string type = reader.text("type");
  if (type == "Sequence") {
    const Json& parts = reader.array("normalizers");
    for (size_t i = 0; i < parts.size(); ++i) {
      reader.fail(add(parts[i], absl::StrCat(path, ".normalizers[", i, "]")));
    }
  } else if (type == "Prepend") {
    steps_.push_back({.to = reader.text("prepend")});
  } else if (type == "Replace") {
    reader.fail(add_replace(reader));
  } else if (const std::optional<UnicodeForm> form = unicode_form_of(type)) {
    steps_.push_back({.form = form});
  } else {
    reader.fail(unsupported(reader.path_of("type"), type,
                            "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD, or null"));
  }
  return reader.finish();
}

absl::Status Normalizer::add_replace(ObjectReader& reader) {
  Step step;
  step.to = reader.text("content");
  ObjectReader pattern(reader.object("pattern"), reader.path_of("pattern"));
  const std::optional<std::string> regex = pattern.optional_text("Regex");
  if (!regex) step.from = pattern.text("String");
  reader.fail(pattern.finish());
  if (!reader.status().ok()) return reader.status();
  if (!regex) {
    if (step.from.empty()) return malformed(reader.path_of("pattern.String"), "", "some text");
  } else {
    auto compiled = Pattern::compile(*regex);
    if (!compiled.ok()) {
      return absl::Status(
          compiled.status().code(),
          absl::StrCat(reader.path_of("pattern.Regex"), ": ", compiled.status().message()));
    }
    step.pattern = *std::move(compiled);
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

bool Normalizer::keeps_word_ends() const {
  return std::ranges::all_of(steps_, [](const Step& step) { return step.form.has_value(); });
}

absl::StatusOr<std::string> Normalizer::apply(std::string_view text) const {
  std::string result(text);
  for (const Step& step : steps_) {
    if (step.form || step.pattern) {
      absl::StatusOr<std::string> changed =
          step.form ? to_unicode_form(result, *step.form) : step.pattern->replace(result, step.to);
      if (!changed.ok()) return changed.status();
      result = *std::move(changed);
    } else if (!step.from.empty()) {
      replace_all(result, step.from, step.to);
    } else if (!result.empty()) {
      result.insert(0, step.to);
    }
  }
  return result;
}

size_t Normalizer::most_memory(size_t text_bytes) const {
  size_t bytes = text_bytes;
  size_t most = bytes;
  for (const Step& step : steps_) {
    size_t memory = 0;
    size_t after = bytes;
    if (step.form) {
      const FormCost cost = cost_of(*step.form);
      memory = bytes * cost.memory;
      after = bytes * cost.growth;
    } else if (step.pattern) {
      after = bytes * std::max<size_t>(1, step.to.size());
      memory = 2 * after;  // it grows while it is made
    } else if (!step.from.empty()) {
      after = bytes * std::max<size_t>(1, quotient_up(step.to.size(), step.from.size()));
    } else {
      after = bytes + step.to.size();
      memory = bytes;  // it grows into a copy of twice the size
    }
    most = std::max(most, bytes + after + memory);
    bytes = after;
  }
  return most;
}

std::optional<size_t> Normalizer::most_shortening() const {
  size_t factor = 1;
  for (const Step& step : steps_) {
    if (step.pattern || (!step.from.empty() && step.to.empty())) return std::nullopt;
    if (step.form) {
      factor *= kMostFormShortening;
    } else if (!step.from.empty()) {
      factor *= std::max<size_t>(1, quotient_up(step.from.size(), step.to.size()));
    }
  }
  return factor;
}

}  // namespace kascade::bpe
