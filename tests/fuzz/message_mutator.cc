#include "tests/fuzz/message_mutator.h"

#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <string>

#include "google/protobuf/descriptor.h"

namespace kascade::testing {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int kMostOfAList = 64;

template <typename T, size_t size>
T one_of(const T (&values)[size], std::minstd_rand& random) {
  return values[random() % size];
}

int64_t any_integer(std::minstd_rand& random) {
  constexpr int64_t kEnds[] = {0,         1,          -1,         2,         16,
                               255,       256,        257,        264,       512,
                               513,       INT32_MAX,  INT32_MIN,  INT64_MAX, INT64_MIN,
                               1'000'000, UINT32_MAX, 1073741824, 4096,      65536};
  if (random() % 2 == 0) return one_of(kEnds, random);
  return static_cast<int64_t>(random() % 300);
}

double any_number(std::minstd_rand& random) {
  using Limits = std::numeric_limits<double>;
  constexpr double kEnds[] = {0,
                              -0.0,
                              1,
                              -1,
                              0.5,
                              0.1,
                              1e-300,
                              1e300,
                              1e-45,
                              100,
                              Limits::infinity(),
                              -Limits::infinity(),
                              Limits::quiet_NaN(),
                              Limits::max(),
                              Limits::denorm_min()};
  if (random() % 2 == 0) return one_of(kEnds, random);
  return static_cast<double>(random() % 1000) / 500;
}

std::string any_text(std::minstd_rand& random) {
  static constexpr const char* kTexts[] = {"",
                                           "a",
                                           "the thin lines in the other corner",
                                           " ",
                                           "\n",
                                           "user",
                                           "assistant",
                                           "<|bos|>",
                                           "<|eos|>",
                                           "\xf0\x9f\xa7\xbf",
                                           "{}",
                                           "none",
                                           "prose",
                                           "\xc3\xa9",
                                           "0",
                                           "th"};
  std::string text = one_of(kTexts, random);
  for (auto times = random() % 8; times > 0 && text.size() < 4096; --times) text += text;
  return text;
}

bool add_value(Message& message, const FieldDescriptor& field, std::minstd_rand& random) {
  const Reflection& reflection = *message.GetReflection();
  const int64_t integer = any_integer(random);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      reflection.AddInt32(&message, &field, static_cast<int32_t>(integer));
      return true;
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.AddString(&message, &field, any_text(random));
      return true;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      mutate(*reflection.AddMessage(&message, &field), random);
      return true;
    default:  // no request has lists of other types
      return false;
  }
}

void set_value(Message& message, const FieldDescriptor& field, std::minstd_rand& random) {
  const Reflection& reflection = *message.GetReflection();
  const int64_t integer = any_integer(random);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&message, &field, static_cast<int32_t>(integer));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&message, &field, integer);
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.SetUInt32(&message, &field, static_cast<uint32_t>(integer));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&message, &field, static_cast<uint64_t>(integer));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&message, &field, any_number(random));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.SetFloat(&message, &field, static_cast<float>(any_number(random)));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&message, &field, random() % 2 == 0);
    case FieldDescriptor::CPPTYPE_ENUM:  // beyond its end, too
      return reflection.SetEnumValue(
          &message, &field,
          static_cast<int>(random() % static_cast<unsigned>(field.enum_type()->value_count() + 1)));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&message, &field, any_text(random));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return mutate(*reflection.MutableMessage(&message, &field), random);
  }
}

void change_list(Message& message, const FieldDescriptor& field, std::minstd_rand& random) {
  const Reflection& reflection = *message.GetReflection();
  const int size = reflection.FieldSize(message, &field);
  if (size > 0 && random() % 3 == 0) return reflection.RemoveLast(&message, &field);
  const bool is_of_messages = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (size > 0 && is_of_messages && random() % 2 == 0) {
    const int changed = static_cast<int>(random() % static_cast<unsigned>(size));
    return mutate(*reflection.MutableRepeatedMessage(&message, &field, changed), random);
  }
  if (size < kMostOfAList) add_value(message, field, random);
}

}  // namespace

void mutate(Message& message, std::minstd_rand& random) {
  const auto& type = *message.GetDescriptor();
  if (type.field_count() == 0) return;
  const FieldDescriptor& field =
      *type.field(static_cast<int>(random() % static_cast<unsigned>(type.field_count())));
  if (field.is_repeated()) return change_list(message, field, random);
  if (random() % 5 == 0) return message.GetReflection()->ClearField(&message, &field);
  set_value(message, field, random);
}

}  // namespace kascade::testing
