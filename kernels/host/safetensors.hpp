// Reads a fixture: tensors of f32 (and whole numbers, as f32) by name, and the numbers of its `config`.
#pragma once
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

/// A value of JSON: as much of it as the fixtures need.
struct Json {
    enum Kind { NOTHING, NUMBER, TEXT, LIST, OBJECT } kind = NOTHING;
    double number = 0;
    std::string text;
    std::vector<Json> list;
    std::map<std::string, Json> object;

    int whole(const char* key) const { return (int)object.at(key).number; }
    std::vector<int> wholes(const char* key) const {
        std::vector<int> all;
        for (const Json& one : object.at(key).list) all.push_back((int)one.number);
        return all;
    }
    static Json parse(const std::string& from) {
        const char* at = from.c_str();
        return value(at);
    }

  private:
    static void skip(const char*& at) {
        while (*at && strchr(" \t\r\n,:", *at)) at++;
    }
    static std::string quoted(const char*& at) {
        std::string out;
        for (at++; *at && *at != '"'; at++) {
            if (*at == '\\') at++;
            out += *at;
        }
        at++;
        return out;
    }
    static Json value(const char*& at) {
        Json out;
        skip(at);
        if (*at == '"') {
            out.kind = TEXT, out.text = quoted(at);
        } else if (*at == '[') {
            out.kind = LIST;
            for (at++, skip(at); *at && *at != ']'; skip(at)) out.list.push_back(value(at));
            at++;
        } else if (*at == '{') {
            out.kind = OBJECT;
            for (at++, skip(at); *at && *at != '}'; skip(at)) {
                std::string name = quoted(at);
                out.object[name] = value(at);
            }
            at++;
        } else if (isdigit((unsigned char)*at) || *at == '-') {
            char* end;
            out.kind = NUMBER, out.number = strtod(at, &end), at = end;
        } else {
            while (isalpha((unsigned char)*at)) at++;  // null, true, false
        }
        return out;
    }
};

struct Fixture {
    std::map<std::string, std::vector<float>> tensors;
    std::map<std::string, std::vector<int>> shapes;
    Json config;

    explicit Fixture(const char* path) {
        FILE* file = fopen(path, "rb");
        if (!file) fprintf(stderr, "%s cannot be opened\n", path), exit(2);
        uint64_t length = 0;
        std::vector<char> all;
        char part[1 << 16];
        for (size_t got; (got = fread(part, 1, sizeof part, file));) all.insert(all.end(), part, part + got);
        fclose(file);
        if (all.size() < 8 || (memcpy(&length, all.data(), 8), length > all.size() - 8)) fprintf(stderr, "%s is no safetensors file\n", path), exit(2);
        Json header = Json::parse(std::string(all.data() + 8, length));
        config = Json::parse(header.object["__metadata__"].object["config"].text);
        for (auto& [name, of] : header.object) {
            if (name == "__metadata__") continue;
            const char* begin = all.data() + 8 + length + (size_t)of.object["data_offsets"].list[0].number;
            size_t bytes = (size_t)(of.object["data_offsets"].list[1].number - of.object["data_offsets"].list[0].number);
            std::vector<float>& values = tensors[name];
            if (of.object["dtype"].text == "I64") {
                for (size_t i = 0; i < bytes; i += 8) {
                    int64_t whole;
                    memcpy(&whole, begin + i, 8);
                    values.push_back((float)whole);
                }
            } else {
                values.resize(bytes / 4);
                memcpy(values.data(), begin, bytes);
            }
            for (Json& side : of.object["shape"].list) shapes[name].push_back((int)side.number);
        }
    }
};
